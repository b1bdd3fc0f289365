"""The link to the controller: reports go out, orders come in."""
