//! The kernels on a CUDA device. Without one, the tests pass with a note, unless
//! EPO_REQUIRE_CUDA=1.

#[macro_use]
mod device;

device_tests!(define_tests, device::open(epo::train::config::DeviceKind::Cuda, "EPO_REQUIRE_CUDA"));
