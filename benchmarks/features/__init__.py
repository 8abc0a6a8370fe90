"""Small networks, one per feature, written once; pruned with Torch-Pruning and with jaxprune."""
