import os

# Read by Keras when it is first imported: the reference needs no deep-learning framework.
os.environ.setdefault("KERAS_BACKEND", "numpy")
