"""A folder of photos, one folder a class: check it, train on it, score the model and name new images.

python photos.py FOLDER [key=value ...]     # without a folder, one is drawn: red discs and blue squares
"""

import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

import imprint


def draw_folder() -> Path:
    """Draw a stand-in for photos: 40 discs and 40 squares, half of each to test with."""
    random.seed(7)
    folder = Path(tempfile.mkdtemp()) / "shapes"
    for part in ("train", "test"):
        for name, colour in (("disc", "red"), ("square", "blue")):
            (folder / part / name).mkdir(parents=True)
            for number in range(20):
                image = Image.new("RGB", (64, 48), random.choice(["white", "wheat", "lightgrey"]))
                left, top, side = random.randrange(30), random.randrange(20), random.randrange(15, 28)
                draw = ImageDraw.Draw(image)
                shape = draw.ellipse if name == "disc" else draw.rectangle
                shape((left, top, left + side, top + side), fill=colour)
                image.save(folder / part / name / f"{number}.png")
    return folder


fields = dict(argument.split("=") for argument in sys.argv[1:] if "=" in argument)  # such as epochs=3 for a quick look
folders = [argument for argument in sys.argv[1:] if "=" not in argument]
folder = Path(folders[0]) if folders else draw_folder()

# Folders called train and test are kept apart; an undivided one is split by the recipe.
images = imprint.load(folder, side=256)  # as large as a pretrained network uses them
print(f"{len(images):,} images: {images.class_counts()}")

# Copies and faults are cheap to find before training and expensive after it.
for finding in imprint.check(images, labels=False, verbose=False).findings[:5]:
    print(f"{finding.kind}: {finding.message} ({', '.join(map(str, finding.where[:3]))})")

run = imprint.train(images, **fields)  # few photos, or many: their number chooses the recipe
run.model.save("photos.safetensors")

# The validation score comes with the run. A test part says more, since nothing was chosen by it.
print(f"validation {run.validation}")
if (folder / "test").is_dir():
    print(f"test {imprint.evaluate(run.model, folder, part='test')}")

# New images may have any size; those that a person should look at are flagged.
some = sorted(folder.rglob("*.[pj][np]g"))[:5]
for fact in imprint.Classifier.load("photos.safetensors").predict(some).to_dicts():
    print(f"{fact['source']}: {fact['label']} ({fact['confidence']:.2f}{fact['why'] and ', unsure: ' + fact['why']})")
