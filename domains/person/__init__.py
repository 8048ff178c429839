"""People in photographs: found in other cameras, by a sentence, by what they wear."""

from .domain import Person as Person
