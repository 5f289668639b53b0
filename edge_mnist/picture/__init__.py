"""From any picture to what the model eats: numpy and Pillow only."""
