//! Hands the linker script of the target's architecture to the linker.

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    // Only the bare-metal program has a layout of its own; the host library links as any other.
    if target.ends_with("-none") {
        println!("cargo:rerun-if-changed=src/arch/x86_64/image.ld");
        println!("cargo:rustc-link-arg-bins=-T{here}/src/arch/x86_64/image.ld");
    }
}
