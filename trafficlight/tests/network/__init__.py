"""What clients do when the network between them and their homeserver breaks."""
