//~ `std::io::Error` does not tell its status and whose fault it is: it does not implement `Fail`
//~ for an error of another crate, put `classify::ClassifyLayer` around the service that fails with it

pub fn fail(error: std::io::Error) -> llamatower_layers::Failure {
    llamatower_layers::Failure::from(error)
}
