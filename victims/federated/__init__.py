"""HashVFL: parties with disjoint columns over a wire."""
