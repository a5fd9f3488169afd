"""What a trained model is worth: scores, predictions, differences between runs."""
