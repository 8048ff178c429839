"""The images and classes of the prompt learners' tests."""

from named_images import classifier, embedded_task, make_support, several_labels, support  # noqa: F401
