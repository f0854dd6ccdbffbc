"""Image priors: generators that carry public knowledge; training, ceiling, content-addressed caching."""
