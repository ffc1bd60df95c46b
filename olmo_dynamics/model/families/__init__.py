"""The families, a file each: the words of its config, the parts that it has, and the network that they make."""
