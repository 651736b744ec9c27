"""The classic lesson in Keras, driven line by line over stdin so that another program can time it in turn.

Run by benchmarks/tutorial.py in an environment with tensorflow-cpu. Each command answers with
one JSON line:

    epoch               train one epoch of 640 steps of 64
    predict             predict the test images
    read                read train.csv with pandas
    compare FILE.npz    save weights, 1,000 images and their probabilities
    lesson SEED EPOCHS  train the whole lesson afresh
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pandas as pd
from keras import layers
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from sklearn.model_selection import train_test_split


def build():
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(30, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(15, 3, activation="relu"),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(50, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.RMSprop(learning_rate=1e-3)
    network.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return network


def augmented(pixels, labels, seed):
    generator = ImageDataGenerator(
        rotation_range=10, zoom_range=0.1, width_shift_range=0.1, height_shift_range=0.1
    ).flow(pixels, labels, batch_size=64, seed=seed)
    while True:  # 640 steps are more than one pass; Keras 3 would stop at the end of the first
        yield next(generator)


def scaled(table):
    return (table.to_numpy() / 255.0).astype("float32").reshape(-1, 28, 28, 1)


def main(train_csv, test_csv):
    table = pd.read_csv(train_csv)
    pixels = scaled(table.drop(columns="label"))
    labels = keras.utils.to_categorical(table["label"], 10)
    test = scaled(pd.read_csv(test_csv))
    train_x, val_x, train_y, val_y = train_test_split(pixels, labels, test_size=0.08, random_state=7)
    network, batches = build(), augmented(train_x, train_y, seed=0)
    print(json.dumps({"keras": keras.__version__}), flush=True)

    for line in sys.stdin:
        command, *words = line.split()
        started, answer = time.perf_counter(), {}
        if command == "epoch":
            history = network.fit(batches, steps_per_epoch=640, validation_data=(val_x, val_y), verbose=0).history
            answer["val_acc"] = history["val_accuracy"][0]
        elif command == "predict":
            network.predict(test, verbose=0)
        elif command == "read":
            pd.read_csv(train_csv)
        elif command == "compare":
            arrays = {f"weights{i}": array for i, array in enumerate(network.get_weights())}
            chosen = val_x[:1000]
            np.savez(words[0], pixels=chosen, probabilities=network.predict(chosen, verbose=0), **arrays)
        elif command == "lesson":
            seed, epochs = map(int, words)
            keras.utils.set_random_seed(seed)
            plateau = keras.callbacks.ReduceLROnPlateau(
                monitor="val_accuracy", mode="max", factor=0.5, patience=3, min_delta=1e-4, min_lr=1e-5
            )
            history = (
                build()
                .fit(
                    augmented(train_x, train_y, seed),
                    steps_per_epoch=640,
                    epochs=epochs,
                    validation_data=(val_x, val_y),
                    callbacks=[plateau],
                    verbose=0,
                )
                .history
            )
            answer |= {"val_acc": history["val_accuracy"][-1], "curve": history["val_accuracy"]}
        answer["seconds"] = time.perf_counter() - started
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
