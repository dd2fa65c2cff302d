"""Who acts on an arm: a policy here or elsewhere, and the scripted expert."""
