//~ `Body` is not a body in memory: it does not implement `Buffered`
//~ place `BodyLimitLayer` outside of this layer

pub fn read(body: axum::body::Body) {
    fn needs_bytes(_: impl llamatower_layers::body::Buffered) {}
    needs_bytes(body);
}
