"""What a user asks for: keys settled into a recipe, and what a recipe names made of it: data, adapters, a backbone."""
