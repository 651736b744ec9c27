"""Keras's image-classification tutorial, driven line by line over stdin so that another program can time it.

Run by benchmarks/photos.py in an environment with tensorflow-cpu. The network, its size of 180×180,
the augmentation and the 15 epochs are those of tensorflow.org/tutorials/images/classification.

    tutorial SEED EPOCHS  train it afresh; answers with seconds and the accuracy after the last epoch
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def build(classes):
    network = keras.Sequential(
        [
            keras.Input((180, 180, 3)),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.RandomZoom(0.1),
            layers.Rescaling(1.0 / 255),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return network


def main(arrays):
    with np.load(arrays) as file:
        sets = {
            part: (tf.image.resize(file[f"{part}_pixels"], (180, 180)), file[f"{part}_labels"])
            for part in ("train", "test")
        }
    classes = int(sets["train"][1].max()) + 1
    print(json.dumps({"keras": keras.__version__}), flush=True)
    for line in sys.stdin:
        seed, epochs = map(int, line.split()[1:])
        keras.utils.set_random_seed(seed)
        train, test = (tf.data.Dataset.from_tensor_slices(pair).cache() for pair in sets.values())
        batches = train.shuffle(1000).batch(32).prefetch(tf.data.AUTOTUNE)
        started = time.perf_counter()
        history = build(classes).fit(batches, validation_data=test.batch(32), epochs=epochs, verbose=0).history
        answer = {"accuracy": history["val_accuracy"][-1], "seconds": time.perf_counter() - started}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
