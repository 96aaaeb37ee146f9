//! Hands the linker script to the linker, and asks for a program at fixed addresses.

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link.ld");
    if target.ends_with("-none") {
        println!("cargo:rustc-link-arg-bins=-T{here}/link.ld");
        // The target's programs can be moved, by default; boot loaders want one that cannot.
        println!("cargo:rustc-link-arg-bins=--no-pie");
    }
}
