"""Image sets: folders and npz files, splits, class maps, content hashes, overlap checks."""
