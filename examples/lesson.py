"""The whole Kaggle lesson in Python. Run it in a folder with train.csv and test.csv."""

import sys

import imprint

images = imprint.load("train.csv")
print(f"{len(images):,} images, classes {', '.join(images.class_names)}")

settings = sys.argv[1:]  # such as epochs=3 for a quick look
run = imprint.train(images, recipe="tutorial", settings=settings)
print(f"validation accuracy {run.validation}")

predictions = run.model.predict(imprint.load("test.csv"))
predictions.write_csv("result.csv")
run.model.save("digits.safetensors")
print(f"{len(predictions):,} predictions in result.csv, {predictions.unsure.sum():,} of them unsure")
