"""Why a model says what it says: the labelled images nearest to a picture, and where in the picture the score comes
from."""
