"""From a config, packaged or the user's own, and a data set to the plan that mmengine's Runner runs."""
