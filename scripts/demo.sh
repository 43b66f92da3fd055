#!/bin/sh
# The main job in small, from nothing: draw faces with ages, specialise the shipped model on them, and show
# what it makes of prompts with ages before and after; then teach it one person from four pictures and show
# the same prompts with and without what it learned.
#
# usage: scripts/demo.sh AGEWRIGHT OUTPUT_DIR
set -eu
agewright=$1
out=$2
model=models/tiny-face
rm -rf "$out"
mkdir -p "$out"

sheet() { # MODEL OUTPUT.png: a row for each age, a column for each person (the same first latents in every row)
    "$agewright" sample --model "$1" --output "$2" --seed 7 --same_latents --num_images 8 --batch 8 \
        --num_inference_steps 30 --guidance_scale 3 --zoom 2 --prompt \
        "photo of a 10 year old person" "photo of a 20 year old person" "photo of a 30 year old person" \
        "photo of a 40 year old person" "photo of a 50 year old person" "photo of a 70 year old person"
}

of_the_person() { # OUTPUT.png [--lora FILE]: a row for each age, a column for each first noise
    picture=$1
    shift
    "$agewright" sample --model "$out/model" "$@" --output "$picture" --seed 7 --same_latents --num_images 4 \
        --batch 4 --num_inference_steps 30 --guidance_scale 3 --zoom 2 --prompt \
        "photo of a 10 year old sks person" "photo of a 20 year old sks person" "photo of a 30 year old sks person" \
        "photo of a 50 year old sks person" "photo of a 70 year old sks person"
}

echo "1. draw 1988 faces with ages     -> $out/faces"
"$agewright" faces --output "$out/faces" --count 1988 --resolution 64 --seed 11 --ages $(seq 10 80)
echo "2. what the model knows of ages  -> $out/before.png"
sheet "$model" "$out/before.png"
echo "3. specialise it on the faces    -> $out/model"
"$agewright" specialize --config configs/demo-specialize.yaml --pretrained_model_name_or_path "$model" \
    --instance_data_dir "$out/faces/images" --instance_age_path "$out/faces/training_ages.npy" \
    --output_dir "$out/model"
echo "4. what it knows now             -> $out/after.png"
sheet "$out/model" "$out/after.png"
echo "5. draw one person four times    -> $out/person.png"
"$agewright" faces --output "$out/person" --resolution 64 --identity 1001 --ages 12 25 40 60
"$agewright" sheet --output "$out/person.png" --columns 4 --zoom 2 --images "$out"/person/images/*.png
echo "6. teach the model this person   -> $out/lora"
"$agewright" personalize --config configs/demo-personalize.yaml --base_model "$out/model" \
    --self_ref_data_dir "$out/person/images" --self_ref_age_path "$out/person/training_ages.npy" \
    --regularization_dir "$out/faces/images" --regularization_age_path "$out/faces/training_ages.npy" \
    --cache_dir "$out/model/cache" --output_dir "$out/lora"
echo "7. five ages, without and with   -> $out/without-lora.png, $out/with-lora.png"
of_the_person "$out/without-lora.png"
of_the_person "$out/with-lora.png" --lora "$out/lora"
echo "done. before.png and after.png: rows are the ages 10, 20, 30, 40, 50 and 70, columns are people."
echo "without-lora.png and with-lora.png: rows are the ages 10, 20, 30, 50 and 70; person.png is who it should be."
