#!/bin/sh
# The program from outside: what a mistake gets. One clear line that names what is wrong, the exit code of
# its kind, and no file in the output's folder but kept posteriors.
#
# usage: tests/cli.sh AGEWRIGHT; run where the sources are
set -u
agewright=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
golden=$PWD/tests/golden
folder=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failed=0

complain() {
    echo "FAILED: $*"
    failed=1
}

# refused CODE 'PATTERN' COMMAND...: the code, one line on standard error that matches, no file in ./out
refused() {
    code=$1 pattern=$2
    shift 2
    "$agewright" "$@" >stdout 2>stderr
    got=$?
    grep '^agewright' stderr >line
    [ "$got" = "$code" ] || complain "$*: exit code $got, wanted $code: $(cat stderr)"
    [ "$(wc -l <line)" = 1 ] || complain "$*: wanted one line: $(cat stderr)"
    grep -q -- "$pattern" line || complain "$*: wanted \"$pattern\" in: $(cat line)"
    [ ! -e out ] || find out -type f ! -path 'out/cache/*' >left
    [ ! -e out ] || [ ! -s left ] || complain "$*: left $(tr '\n' ' ' <left)"
    rm -rf out
}

"$agewright" init tiny --output tiny --seed 1 >/dev/null 2>&1 || complain "init"
"$agewright" faces --output faces --count 4 >/dev/null 2>&1 || complain "faces"
names="--instance_data_dir faces/images --instance_age_path faces/training_ages.npy --resolution 64"
train="specialize --pretrained_model_name_or_path tiny $names --output_dir out --max_train_steps 1 --seed 1"

# --- words ---
refused 2 'did you mean specialize' specialise
refused 2 'did you mean learning_rate' $train --learning_rat 1
refused 2 'max_train_steps.*ten' $train --max_train_steps ten
refused 2 'output_dir.*is required' specialize $names
refused 2 'instance_prompt.* a ' $train --instance_prompt "photo of person"
refused 2 'max_timestep' $train --min_timestep 500 --max_timestep 400
refused 2 'model.s 1000' $train --max_timestep 2000
refused 2 'fp16.*--device cuda' $train --device cpu --mixed_precision fp16
printf 'learning_rat: 1\n' >bad.yaml
refused 2 'bad.yaml.*learning_rat' $train --config bad.yaml
printf 'seed: [1\n' >broken.yaml
refused 3 'broken.yaml' $train --config broken.yaml

# --- a person ---
mkdir me nobody bare
for age in 21 34 50; do cp faces/images/00000.png me/${age}_a.png; done
cp faces/images/00001.png bare/x.png
cp faces/images/00002.png bare/30_b.png
person="personalize --base_model tiny --self_ref_data_dir me --regularization_dir me --with_prior_preservation
    --instance_prompt me --resolution 64 --output_dir out --max_train_steps 1"
refused 2 'instance_prompt.*is required' personalize --self_ref_data_dir me
refused 2 'instance_prompt: wanted.*blanks' $person --instance_prompt " "
refused 2 'rank.*got 0' $person --rank 0
refused 2 'to_q maps 48 values to 48.*got 49' $person --rank 49
refused 2 'none of the 1 target names' $person --lora_targets to_x
refused 2 'regularization_dir' personalize --base_model tiny --self_ref_data_dir me --with_prior_preservation \
    --instance_prompt me --resolution 64 --output_dir out
refused 3 'nowhere' $person --regularization_dir nowhere
refused 3 'nobody: no picture' $person --self_ref_data_dir nobody
refused 3 'bare: 1 of 2 pictures.*x.png' $person --self_ref_data_dir bare
refused 3 'bare: 1 of 2 pictures.*x.png' $person --regularization_dir bare
refused 3 'unet/config.json' $person --lora_init tiny/unet/config.json
refused 2 'class_prompt' dreambooth --pretrained_model_name_or_path tiny --instance_data_dir me --class_data_dir me \
    --with_prior_preservation --instance_prompt me --resolution 64 --output_dir out
[ ! -e out ] || complain "a refused run left a folder"

# --- paths ---
refused 3 'nowhere' $train --pretrained_model_name_or_path ./nowhere
refused 3 'nowhere' $train --instance_data_dir nowhere
refused 3 'nowhere.npy' $train --instance_age_path nowhere.npy
refused 3 '/dev/null' $train --output_dir /dev/null/no/such
refused 3 '/dev/null/x.png' sample --model tiny --prompt x --num_inference_steps 1 --output /dev/null/x.png
refused 2 'own folder' $train --output_dir tiny

# --- what the data can be told ---
refused 3 'no caption' $train --caption_extension txt
refused 3 'nomasks' $train --mask_dir nomasks
refused 2 'colour jitter "1,x"' $train --color_jitter 1,x
refused 2 'steps of 65' $train --aspect_ratio_buckets --bucket_step 65
refused 2 'caption_dropout' $train --caption_dropout 1.5
mkdir -p names && cp faces/images/00000.png names/old.png && cp faces/images/00000.png names/young.png
refused 3 '2 of 2 pictures have no age .* old.png (none), young.png (none)' $train --instance_data_dir names \
    --instance_age_path names

# --- files cut short or filled with something else ---
cp -r faces cut && head -c 1000 faces/images/00001.png >cut/images/00001.png
refused 3 '00001.png' $train --instance_data_dir cut/images
head -c 100 faces/training_ages.npy >cut.npy
refused 3 'cut.npy' $train --instance_age_path cut.npy
"$agewright" faces --output more --count 6 >/dev/null 2>&1 || complain "faces"
refused 3 '00004.png' $train --instance_data_dir more/images
spoil() { # FILE: a model with this file damaged by standard input
    rm -rf spoiled
    cp -r tiny spoiled
    cat >"spoiled/$1"
}
head -c 5000 tiny/unet/diffusion_pytorch_model.safetensors | spoil unet/diffusion_pytorch_model.safetensors
refused 3 'spoiled/unet/diffusion_pytorch_model.safetensors' $train --pretrained_model_name_or_path spoiled
printf '{"_class_name": ' | spoil unet/config.json
refused 3 'spoiled/unet/config.json' $train --pretrained_model_name_or_path spoiled
sed 's/"layers_per_block": [0-9]*/"layers_per_block": 3/' tiny/unet/config.json | spoil unet/config.json
refused 3 'missing' $train --pretrained_model_name_or_path spoiled
head -c 3000 /dev/urandom | spoil text_encoder/model.safetensors
refused 3 'text_encoder/model.safetensors' $train --pretrained_model_name_or_path spoiled
printf 'PK\003\004 no archive' >bad.ckpt
refused 3 'bad.ckpt' convert --input bad.ckpt --output out

# --- pictures side by side ---
refused 2 'no-such-flag\|no_such_flag' sheet --no_such_flag
refused 3 'nowhere.png' sheet --images nowhere.png --output out.png
refused 2 'sheet of 1' sheet --images none --output out.png

# --- the judge ---
refused 2 'no such command; did you mean train' judge trian
refused 3 'nowhere' judge score --judge nowhere.safetensors --images faces/images
refused 3 '/dev/null/j' judge train --output /dev/null/j.safetensors --steps 1
refused 2 'one of the two' faces --output out --ages 3 4 --age_max 9
refused 2 'got 91' faces --output out --ages 91

# --- LoRA files ---
loras="$golden/lora_files"
refused 2 'did you mean check' lora chek x
refused 2 'rank' lora resize --input "$loras/kohya.safetensors" --output out/l.safetensors --rank 0
refused 3 'nowhere.safetensors' sample --model tiny --lora nowhere.safetensors --prompt x --output x.png
refused 3 'another base' sample --model tiny --lora "$loras/kohya.safetensors" --prompt x --output x.png
refused 3 'another base' lora merge --model tiny --lora "$loras/diffusers.safetensors:0.5" --output out
refused 3 'no published model' lora convert --input "$loras/kohya.safetensors" --output out/l.safetensors --to peft
head -c 3000 "$loras/kohya.safetensors" >cut.safetensors
refused 3 'cut.safetensors' lora check cut.safetensors
refused 3 'is no LoRA' lora check tiny/unet/diffusion_pytorch_model.safetensors
refused 3 'differ in nothing' lora extract --model tiny --tuned tiny --output out/l.safetensors

# --- a disk that is full: the largest file this shell allows ---
(
    ulimit -f 200
    refused 3 'out' convert --input tiny --output out
    [ "$failed" = 0 ]
) || failed=1

# --- what is well ---
"$agewright" --help | grep -q specialize || complain "--help"
"$agewright" specialize --help | grep -q -- --learning_rate || complain "specialize --help"
"$agewright" $train >/dev/null 2>stderr || complain "a run: $(cat stderr)"
[ -f out/model_index.json ] || complain "a run left no model"
"$agewright" sample --model tiny --prompt x --num_inference_steps 1 --output x.png --profile --trace trace.json \
    2>stderr || complain "sample --profile: $(cat stderr)"
grep -q '^conv2d' stderr || complain "--profile: no convolution in its table"
grep -q '"name":"conv2d"' trace.json && tail -n 1 trace.json | grep -q ']}' || complain "--trace: not whole"
"$agewright" sample --model tiny --prompt x y --num_inference_steps 1 --output sheet.png --pictures_dir alone \
    2>stderr || complain "sample --pictures_dir: $(cat stderr)"
"$agewright" sheet --images alone/00000.png alone/00001.png --columns 2 --output again.png 2>stderr ||
    complain "sheet: $(cat stderr)"
"$agewright" sheet --images alone/00000.png none --columns 2 --output half.png 2>stderr || complain "sheet: $(cat stderr)"
cmp -s half.png again.png && complain "sheet: an empty place is none"
for gib in 0 80; do # a GPU that need not be there
    "$agewright" plan $train --device cuda --measure_seconds 0 --gpu_memory $gib >plan 2>stderr ||
        complain "plan --device cuda: $(cat stderr)"
    grep -q 'on the GPU' plan || complain "plan --device cuda: $(cat plan)"
done
grep -q 'fits' plan || complain "plan --gpu_memory 80: $(cat plan)"
"$agewright" plan $train --device cuda --measure_seconds 0 --gpu_memory 0.63 | grep -q 'does not fit' ||
    complain "plan --gpu_memory 0.63"
rm -rf out
refused 3 '/dev/null/t.json' doctor --trace /dev/null/t.json
exit $failed
