#!/bin/sh
# Run the tests: one line each, the count at the end; the exit status is the verdict.
#
# usage: tests/run.sh AGEWRIGHT TEST...
# A test may be NAME=value:program, which runs it in that environment.
# A test that prints SKIP says what it left out. The log of each stands beside it.
agewright=$1
shift
# Threads that wait must not burn the processor that the next test needs.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
passed=0
failed=0
one() {
    log=$test$at.log
    start=$(date +%s)
    if "$@" >"$log" 2>&1; then
        echo "ok    $name  $(($(date +%s) - start)) s"
        grep -h SKIP "$log"
        passed=$((passed + 1))
    else
        echo "FAIL  $name"
        tail -n 40 "$log"
        failed=$((failed + 1))
    fi
}
for test; do
    setting='' at=''
    case $test in
    *=*:*) setting=${test%%:*} test=${test#*:} at=.${setting#*=} ;;
    esac
    name=${test##*/}${setting:+ $setting}
    one env ${setting:+"$setting"} "$test"
done
at=''
for script in tests/*.sh; do
    # the scripts test the program, not a device
    [ "$script" = tests/run.sh ] || [ "${AG_TEST_DEVICE:-cpu}" != cpu ] && continue
    name=$script test=${agewright%/*}/${script##*/}
    cp "$script" "${agewright%/*}/" && one sh "${agewright%/*}/${script##*/}" "$agewright"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
