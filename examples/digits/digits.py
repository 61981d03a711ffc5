"""The steps of the digits pipeline. Nothing here knows zen-runner: they are functions of paths and plain values."""

import json

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def split(train, test, test_share, seed):
    """Write the 1,797 images of 8 by 8 pixels that scikit-learn carries as a training part and a test part."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=test_share, random_state=seed, stratify=labels)
    joblib.dump((parts[0], parts[2]), train)
    joblib.dump((parts[1], parts[3]), test)
    return {"train": len(parts[2]), "test": len(parts[3])}


def train(data, model, regularisation):
    """Fit a logistic regression on the training part."""
    images, labels = joblib.load(data)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation, max_iter=1000))
    classifier.fit(images, labels)
    joblib.dump(classifier, model)


def evaluate(data, model, metrics, at_least):
    """Write and return the accuracy on the test part; fail below ``at_least``."""
    images, labels = joblib.load(data)
    accuracy = round(float(accuracy_score(labels, joblib.load(model).predict(images))), 4)
    metrics.write_text(json.dumps({"accuracy": accuracy, "images": len(labels)}) + "\n", encoding="utf-8")
    print(f"accuracy {accuracy} on {len(labels)} images")
    if accuracy < at_least:
        raise SystemExit(f"accuracy {accuracy} is below {at_least}")
    return {"accuracy": accuracy}
