#!/usr/bin/env bash
# Every week: check the images, train from the model in service, and replace that if the new one is no worse.
# docs/retraining.md explains each step.
#
#   retrain.sh IMAGES TEST SERVED [option of imprint train ...]
#
# IMAGES grows from week to week, TEST never changes and is never trained on. SERVED holds model.onnx, which the service
# reads, and run.txt, which run it came from. Exit status: 0 where the new model is in service, 1 where the old one stays.
set -euo pipefail
images=$1 test=$2 served=$3
shift 3
week=${WEEK:-runs/weekly-$(date +%F)}
mkdir -p runs "$served"

if [ -f "$week/checkpoint.safetensors" ]; then # stopped before its end: the result is the same as without the stop
    imprint train --resume "$week"
elif [ ! -f "$week/model.safetensors" ]; then
    imprint check "$images" --against "$test" --fix "$week.csv" --save "$week.html" ${CHECK_OPTIONS:-}
    [ -f "$served/run.txt" ] && set -- --from "$(cat "$served/run.txt")" "$@"
    imprint train "$week.csv" --run "$week" "$@"
fi

# The exported file is proved to answer as the run does; it stands beside the served one, so that mv is atomic.
# The run is judged, since its folder tells which images it was trained on: those must not judge it.
new="$served/new.onnx"
imprint export "$week" -o "$new"
if [ -f "$served/model.onnx" ] && ! imprint compare "$served/model.onnx" "$week" "$test" --strict --no-worse; then
    rm "$new"
    echo "the model in service stays: $week is worse, or could not be compared" >&2
    exit 1
fi
imprint evaluate "$new" "$test"
mv "$new" "$served/model.onnx"
echo "$week" >"$served/run.new" && mv "$served/run.new" "$served/run.txt"
echo "$week is in service" >&2
