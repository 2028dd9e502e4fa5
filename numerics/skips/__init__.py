"""Skip connections and the speed of training: networks, prediction."""
