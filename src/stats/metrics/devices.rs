use std::collections::HashMap;
use std::path::Path;

/// Names of block devices by device number. A name is looked up when it is first needed.
#[derive(Debug, Default)]
pub struct DeviceNames(HashMap<(u64, u64), String>);

impl DeviceNames {
    /// `/dev/sda`, or `8:0` when the kernel no longer has such a device.
    pub fn of(&mut self, major: u64, minor: u64) -> &str {
        self.0.entry((major, minor)).or_insert_with(|| {
            let numbers = format!("{major}:{minor}");
            let link = std::fs::read_link(Path::new("/sys/dev/block").join(&numbers));
            let name = link.ok().and_then(|link| Some(format!("/dev/{}", link.file_name()?.to_str()?)));
            name.unwrap_or(numbers)
        })
    }
}
