import os

# Read by Keras when it is first imported: the reference needs no deep-learning framework.
os.environ.setdefault("KERAS_BACKEND", "numpy")

collect_ignore = ["sabotage.py"]  # which workers load, not pytest: it needs what only they are given
