"""The contract's checks, for adapters, losses, domains and tasks of anyone; `vladapt.testing` exports them."""
