"""The images of the tests of trained towers, without their labels, and real features."""

from unlabelled_images import fixtures_of, make_problem, make_unlabelled  # noqa: F401

whurs19 = fixtures_of("transductive").whurs19
