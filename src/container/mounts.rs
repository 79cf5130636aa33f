#![allow(missing_docs)]
pub struct HostMount(pub crate::api::v1::Mount); pub enum MissingHostPath{Create,Error}
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct Error;
pub async fn resolve(m:&[crate::api::v1::Mount],_:MissingHostPath)->Result<Vec<HostMount>,Error>{Ok(m.iter().cloned().map(HostMount).collect())}
