"""The structure of image files, one reader for each container: where its parts lie, without decoding them."""
