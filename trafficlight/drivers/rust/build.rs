//! Tells the driver which version of the SDK it is built with.

fn main() {
    let lock = std::fs::read_to_string("Cargo.lock").expect("Cargo.lock");
    let (_, package) =
        lock.split_once("name = \"matrix-sdk\"\nversion = \"").expect("matrix-sdk in Cargo.lock");
    println!("cargo:rustc-env=MATRIX_SDK_VERSION={}", package.split('"').next().unwrap());
    println!("cargo:rerun-if-changed=Cargo.lock");
}
