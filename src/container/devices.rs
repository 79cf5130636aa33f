#![allow(missing_docs)]
#[derive(Debug)] pub struct HostDevice{pub path:std::path::PathBuf,pub kind:char,pub major:i64,pub minor:i64,pub mode:u32,pub uid:u32,pub gid:u32,pub access:String}
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct Error;
pub async fn resolve(_:&[crate::api::v1::Device],_:bool)->Result<Vec<HostDevice>,Error>{Ok(vec![])}
