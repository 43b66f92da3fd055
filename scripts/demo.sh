#!/bin/sh
# The main job in small, from nothing: draw faces with ages, specialise the shipped model on them, and show
# what it makes of prompts with ages before and after.
#
# usage: scripts/demo.sh AGEWRIGHT OUTPUT_DIR
set -eu
agewright=$1
out=$2
model=models/tiny-face
rm -rf "$out"
mkdir -p "$out"

sheet() {
    # a row for each age, a column for each person (the same first latents in every row)
    "$agewright" sample --model "$1" --output "$2" --seed 7 --same_latents --num_images 8 --batch 8 \
        --num_inference_steps 30 --guidance_scale 5 --zoom 2 --prompt \
        "photo of a 4 year old person" "photo of a 12 year old person" "photo of a 30 year old person" \
        "photo of a 50 year old person" "photo of a 65 year old person" "photo of a 82 year old person"
}

echo "1. draw 150 faces with ages      -> $out/faces"
"$agewright" faces --output "$out/faces" --count 150 --resolution 64 --seed 5
echo "2. what the model knows of ages  -> $out/before.png"
sheet "$model" "$out/before.png"
echo "3. specialise it on the faces    -> $out/model"
"$agewright" specialize --config configs/demo-specialize.yaml --pretrained_model_name_or_path "$model" \
    --instance_data_dir "$out/faces/images" --instance_age_path "$out/faces/training_ages.npy" \
    --output_dir "$out/model"
echo "4. what it knows now             -> $out/after.png"
sheet "$out/model" "$out/after.png"
echo "done: rows are the ages 4, 12, 30, 50, 65 and 82, columns are people. Compare before.png and after.png."
