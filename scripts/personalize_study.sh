#!/bin/sh
# Is a personalised model closer to the person than the model it began from, and does the prompt's age still show?
# Measured on drawn people, whose traits are known: for each, four pictures at other ages than the prompts', a LoRA
# trained on these beside drawn pictures of others, samples of both models at 10, 30, 50 and 70 years from the same
# noise, and `agewright judge`, whose own error comes first. Prints Markdown.
#
# usage: scripts/personalize_study.sh AGEWRIGHT MODEL OTHERS OUTPUT_DIR [FIRST [PEOPLE [CONFIG]]]
#   MODEL   a model specialised on drawn faces           OTHERS  the drawn faces (agewright faces)
#   FIRST   the first person, a seed of the painter's (3001)
#   PEOPLE  how many (20)                                CONFIG  configs/demo-personalize.yaml
# What stands in OUTPUT_DIR already (the judge, a person's LoRA and pictures) is not made again, so that several of
# these, for different persons, can share it once it holds the judge and the base's samples.
set -eu
agewright=$1 model=$2 others=$3 out=$4 first=${5:-3001} people=${6:-20} config=${7:-configs/demo-personalize.yaml}
mkdir -p "$out"

sample() { # FOLDER [--lora FILE]: eight pictures of each age, each column from the same noise
    folder=$1
    shift
    [ -f "$folder.png" ] && return
    "$agewright" sample --model "$model" "$@" --output "$folder.png" --pictures_dir "$folder" --seed 7 --same_latents \
        --num_images 8 --batch 8 --num_inference_steps 30 --guidance_scale 3 --prompt \
        "photo of a 10 year old sks person" "photo of a 30 year old sks person" \
        "photo of a 50 year old sks person" "photo of a 70 year old sks person" 2>>"$out/log"
}

score() { # FOLDER PERSON -> the mean distance, and the mean age of each prompt's pictures
    "$agewright" judge score --judge "$out/judge.safetensors" --images "$1" --identity "$2" |
        awk '/\.png$/ { d += $1; age[int(n / 8)] += $2 / 8; n++ }
             END { printf "%.3f %.1f %.1f %.1f %.1f\n", d / n, age[0], age[1], age[2], age[3] }'
}

if [ ! -f "$out/judge.txt" ]; then
    "$agewright" judge train --output "$out/judge.safetensors" --model "$model" >"$out/judge.part" 2>>"$out/log"
    mv "$out/judge.part" "$out/judge.txt"
fi
sample "$out/base"
rows=$out/rows-$first
: >"$rows"
for who in $(seq "$first" $((first + people - 1))); do
    own=$out/person-$who
    [ -f "$own/ffhq_aging_labels.csv" ] ||
        "$agewright" faces --output "$own" --identity "$who" --ages 12 25 40 60 2>>"$out/log"
    [ -f "$out/lora-$who/pytorch_lora_weights.safetensors" ] ||
        "$agewright" personalize --config "$config" --base_model "$model" \
            --self_ref_data_dir "$own/images" --self_ref_age_path "$own/training_ages.npy" \
            --regularization_dir "$others/images" --regularization_age_path "$others/training_ages.npy" \
            --cache_dir "$out/cache" --output_dir "$out/lora-$who" 2>>"$out/log"
    sample "$out/samples-$who" --lora "$out/lora-$who"
    echo "$who $(score "$out/base" "$who") $(score "$out/samples-$who" "$who")" >>"$rows"
done
sed 's/^/    /' "$out/judge.txt"
echo
awk 'BEGIN { print "| person | base: distance | ages | personalised: distance | ages | closer | ages rise |"
             print "|---|---|---|---|---|---|---|" }
     { closer = $7 < $2; rise = $8 < $9 && $9 < $10 && $10 < $11
       n++; c += closer; r += rise; base += $2; own += $7
       printf "| %s | %.2f | %.0f %.0f %.0f %.0f | %.2f | %.0f %.0f %.0f %.0f | %s | %s |\n", $1, $2, $3, $4, $5, $6,
              $7, $8, $9, $10, $11, closer ? "yes" : "no", rise ? "yes" : "no" }
     END { printf "| all %d | %.2f | | %.2f | | %.0f %% | %.0f %% |\n", n, base / n, own / n, 100 * c / n, 100 * r / n }' "$rows"
