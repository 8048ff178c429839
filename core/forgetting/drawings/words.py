"""Names of other things: with those of the drawn ones they are a vocabulary in which to find a name is hard."""

from __future__ import annotations

ANIMALS = (
    "dog horse cow pig sheep rabbit elephant giraffe lion zebra monkey bear owl eagle penguin parrot duck chicken frog "
    "snake turtle crocodile shark whale octopus crab bee ant"
)
FOOD = "bread cheese pizza sandwich egg carrot potato tomato corn grape strawberry onion"
HOUSEHOLD = (
    "chair table bed sofa mirror bathtub refrigerator television telephone camera computer book newspaper spoon fork "
    "bottle basket broom hammer saw nail rope backpack suitcase robot doll"
)
CLOTHES = "shirt trousers shoe sock hat glove dress necktie belt"
MUSIC = "guitar piano drum violin trumpet"
VEHICLES = "airplane train bicycle motorcycle bus helicopter rocket tractor"
PLACES = "bridge castle church lighthouse tent mountain beach waterfall volcano road fence door"

OTHER_NAMES: tuple[str, ...] = tuple(" ".join((ANIMALS, FOOD, HOUSEHOLD, CLOTHES, MUSIC, VEHICLES, PLACES)).split(" "))
"""100 names, none of which is right for one of the drawings, nor a wider or a narrower name of what they show."""
