"""Keras's example for small colour images, driven line by line over stdin so that another program can time it.

Run by benchmarks/colour.py in an environment with tensorflow-cpu. Network, optimiser, rate, batches of 32 and
augmentation are those of Keras's example cifar10_cnn (github.com/keras-team/keras, 2.x, examples/cifar10_cnn.py), whose
decay of the rate, 1e-6 a step, is left out.

    train SEED EPOCHS  train it afresh; answers with seconds and the accuracy after each epoch
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


def build(shape, classes):
    network = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    optimiser = keras.optimizers.RMSprop(learning_rate=1e-4)
    network.compile(optimizer=optimiser, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def main(arrays):
    with np.load(arrays) as file:
        sets = {part: (file[f"{part}_pixels"] / np.float32(255), file[f"{part}_labels"]) for part in ("train", "test")}
    classes = int(sets["train"][1].max()) + 1
    moved = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomTranslation(0.1, 0.1, "nearest")])
    print(json.dumps({"keras": keras.__version__}), flush=True)
    for line in sys.stdin:
        seed, epochs = map(int, line.split()[1:])
        keras.utils.set_random_seed(seed)
        train, test = (tf.data.Dataset.from_tensor_slices(pair) for pair in sets.values())
        batches = train.shuffle(len(sets["train"][1])).batch(32)
        batches = batches.map(lambda pixels, labels: (moved(pixels, training=True), labels), tf.data.AUTOTUNE)
        network = build(sets["train"][0].shape[1:], classes)
        started = time.perf_counter()
        history = network.fit(
            batches.prefetch(tf.data.AUTOTUNE), validation_data=test.batch(256), epochs=epochs, verbose=0
        ).history
        answer = {"accuracy": history["val_accuracy"], "seconds": time.perf_counter() - started}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
