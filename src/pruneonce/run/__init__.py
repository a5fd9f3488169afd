"""From a packed file to answers, by native kernels. No torch."""
