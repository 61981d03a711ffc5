"""Multinomial logistic regression on standardised measurements, in plain Python.

Sums are ``math.fsum``'s and numbers are rounded where they are written, so every machine writes the same bytes.
"""

import math


def probabilities(weights, point):
    """Return the probability of each class for one standardised point; ``weights`` is one row a class, bias first."""
    scores = [math.fsum([row[0], *(w * x for w, x in zip(row[1:], point))]) for row in weights]
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    total = math.fsum(powers)
    return [power / total for power in powers]


def fit(points, labels, classes, epochs, rate=2.0):
    """Return the weights and the mean loss after ``epochs`` steps of gradient descent over the whole of ``points``."""
    weights = [[0.0] * (len(points[0]) + 1) for _ in classes]
    for _ in range(epochs):
        guesses = [probabilities(weights, point) for point in points]
        for index, name in enumerate(classes):
            errors = [guess[index] - (label == name) for guess, label in zip(guesses, labels)]
            columns = [errors, *([e * x for e, x in zip(errors, column)] for column in zip(*points))]
            weights[index] = [w - rate * math.fsum(c) / len(points) for w, c in zip(weights[index], columns)]
    guesses = [probabilities(weights, point) for point in points]
    loss = -math.fsum(math.log(guess[classes.index(label)]) for guess, label in zip(guesses, labels)) / len(points)
    return weights, loss


def standardise(row, model):
    """Return a table's row as numbers with mean 0 and standard deviation 1 over the training rows."""
    return [(float(row[f]) - m) / s for f, m, s in zip(model["features"], model["mean"], model["scale"])]
