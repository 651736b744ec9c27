"""The whole Kaggle lesson in Python. Run it in a folder with train.csv and test.csv.

python lesson.py [key=value ...]     # fields of the recipe, such as epochs=3 for a quick look
"""

import sys

import imprint

images = imprint.load("train.csv")
print(f"{len(images):,} images, classes {', '.join(images.class_names)}")

fields = dict(argument.split("=") for argument in sys.argv[1:])  # in code: imprint.train(images, "tutorial", epochs=3)
run = imprint.train(images, "tutorial", test="test.csv", **fields)
print(f"validation accuracy {run.validation}")

run.result.write_csv("result.csv")
run.model.save("digits.safetensors")
print(f"{len(run.result):,} predictions in result.csv, {run.result.unsure.sum():,} of them unsure")
