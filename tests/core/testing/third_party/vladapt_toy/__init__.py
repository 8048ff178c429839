"""A domain of coloured spots, with a task, an adapter, a loss and a metric of its own."""
