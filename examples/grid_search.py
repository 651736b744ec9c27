"""Choose epochs and learning rate by cross-validation, with scikit-learn's own tools.

python grid_search.py [number of digits]     # all 1,797 take a minute or two
"""

import sys

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

import imprint

count = int(sys.argv[1]) if len(sys.argv) > 1 else None
X, y = load_digits(return_X_y=True)  # rows of 64 numbers from 0 to 16; Imprint finds out the shape and the range
X, y = X[:count], y[:count]

# The test digits take no part in the search, whose best score is biased upwards: it is the best of several.
X_search, X_test, y_search, y_test = train_test_split(X, y, test_size=0.3, random_state=7, stratify=y)

search = GridSearchCV(
    # Nothing is held out inside each fit, since the cross-validation holds out already.
    imprint.ImageClassifier("quick", validation_fraction=0, settings={"min_steps": 0}, batch_size=64),
    {"epochs": [2, 8], "learning_rate": [5e-3, 1.5e-2]},
    cv=3,
    n_jobs=1,  # each fit uses all cores already
)
search.fit(X_search, y_search)

for parameters, mean in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    print(f"{mean:.4f} {parameters}")
print(f"best {search.best_params_}: {search.score(X_test, y_test):.4f} on {len(y_test)} digits not searched with")

# One file, which `imprint predict` reads too; labels are numbers again when it is loaded.
search.best_estimator_.save("digits.safetensors")
print(imprint.ImageClassifier.load("digits.safetensors").predict(X_test[:5]), y_test[:5])
