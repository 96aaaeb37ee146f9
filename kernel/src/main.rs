//! The program: everything is in the library, whose boot entry the linker script names.

#![no_std]
#![no_main]

use kspace_kernel as _;
