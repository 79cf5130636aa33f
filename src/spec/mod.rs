#![allow(missing_docs)]
pub mod seccomp;
use std::path::{Path,PathBuf};
use serde_json::{json,Value};
use crate::ids::*; use crate::api::v1; use oci_spec::runtime::{Spec,Process};
#[derive(Default)] pub struct Host { pub cgroup_v2: bool, pub oom_score_floor: i32, pub swap: bool, pub hugetlb: bool, pub apparmor: bool, pub selinux: bool, pub seccomp: bool, pub kernel: (u32,u32), pub cpu_count: usize }
pub struct Handler { pub name: String, pub base_spec: Option<Spec>, pub privileged_without_host_devices: bool, pub pod_annotations: Vec<String>, pub container_annotations: Vec<String> }
pub struct SandboxFiles { pub hostname: PathBuf, pub hosts: PathBuf, pub resolv_conf: PathBuf, pub shm: PathBuf }
pub struct SandboxInput<'a> { pub id:&'a SandboxId, pub config:&'a v1::PodSandboxConfig, pub handler:&'a Handler, pub host:&'a Host, pub cgroup_path:String, pub netns: Option<&'a Path>, pub root:&'a Path, pub args: Vec<String>, pub hostname: String, pub files:&'a SandboxFiles }
#[derive(Debug, thiserror::Error)] #[error("{0}")] pub struct Error(pub String);

fn caps(all:bool)->Vec<String>{ let names=if all {"CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"} else {"CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"}; names.split(' ').map(|n|format!("CAP_{n}")).collect() }
fn base(args:&[String],env:Vec<String>,cwd:&str,uid:u32,gid:u32,gids:&[u32],privileged:bool,oom:i32)->Value{
 let c=caps(privileged);
 json!({"ociVersion":"1.3.0","process":{"terminal":false,"user":{"uid":uid,"gid":gid,"additionalGids":gids},"args":args,"env":env,"cwd":cwd,"capabilities":{"bounding":c,"effective":c,"permitted":c},"noNewPrivileges":false,"oomScoreAdj":oom},
 "root":{"path":"rootfs","readonly":false},"mounts":[
 {"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
 {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
 {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]},
 {"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},
 {"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev",if privileged{"rw"}else{"ro"}]},
 {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","relatime",if privileged{"rw"}else{"ro"}]}],
 "annotations":{}, "linux":{"resources":{"devices":[{"allow":privileged,"access":"rwm"}]}}})
}
fn ns(opts:Option<&v1::NamespaceOption>,netns:Option<&Path>,pid:Option<u32>,target:Option<u32>)->Value{
 let d=v1::NamespaceOption::default(); let o=opts.unwrap_or(&d); let node=v1::NamespaceMode::Node;
 let mut v=vec![json!({"type":"mount"})];
 let join=|t:&str,f:&str|match pid{Some(p)=>json!({"type":t,"path":format!("/proc/{p}/ns/{f}")}),None=>json!({"type":t})};
 if let Some(n)=netns { v.push(json!({"type":"network","path":n})); v.push(join("uts","uts")); }
 if o.ipc()!=node { v.push(join("ipc","ipc")); }
 match o.pid(){ v1::NamespaceMode::Node=>{}, v1::NamespaceMode::Pod=>v.push(join("pid","pid")), v1::NamespaceMode::Target=>v.push(json!({"type":"pid","path":format!("/proc/{}/ns/pid",target.unwrap_or(0))})), v1::NamespaceMode::Container=>v.push(json!({"type":"pid"})) }
 Value::Array(v)
}
fn finish(v:Value)->Result<Spec,Error>{serde_json::from_value(v).map_err(|e|Error(e.to_string()))}
pub fn sandbox(i:&SandboxInput<'_>)->Result<Spec,Error>{
 let mut v=base(&i.args,vec!["PATH=/".into()],"/",65535,65535,&[],false,(-998).max(i.host.oom_score_floor));
 v["root"]=json!({"path":i.root,"readonly":true});
 v["process"]["noNewPrivileges"]=json!(true);
 let sc=i.config.linux.as_ref().and_then(|l|l.security_context.as_ref());
 v["linux"]["namespaces"]=ns(sc.and_then(|s|s.namespace_options.as_ref()),i.netns,None,None);
 v["linux"]["cgroupsPath"]=json!(i.cgroup_path);
 if i.netns.is_some(){v["hostname"]=json!(i.hostname); v["linux"]["sysctl"]=json!({"net.ipv4.ip_unprivileged_port_start":"0","net.ipv4.ping_group_range":"0 2147483647"});}
 if let Some(l)=i.config.linux.as_ref(){for (k,val) in &l.sysctls{v["linux"]["sysctl"][k]=json!(val);}}
 v["annotations"]=json!({"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":i.id.as_str()});
 if let Some(m)=v["mounts"].as_array_mut(){ m.push(json!({"destination":"/dev/shm","type":"bind","source":i.files.shm,"options":["rbind","ro"]})); m.push(json!({"destination":"/etc/resolv.conf","type":"bind","source":i.files.resolv_conf,"options":["rbind","ro"]})); }
 finish(v)
}
pub struct ImageConfig{pub user:String,pub volumes:Vec<String>,pub entry:Vec<String>,pub cmd:Vec<String>,pub env:Vec<String>,pub cwd:String}
impl From<&oci_spec::image::ImageConfiguration> for ImageConfig{fn from(c:&oci_spec::image::ImageConfiguration)->Self{
 let c=c.config().clone().unwrap_or_default();
 Self{user:c.user().clone().unwrap_or_default(),volumes:c.volumes().clone().map(|v|v.into_iter().collect()).unwrap_or_default(),entry:c.entrypoint().clone().unwrap_or_default(),cmd:c.cmd().clone().unwrap_or_default(),env:c.env().clone().unwrap_or_default(),cwd:c.working_dir().clone().unwrap_or_default()}
}}
pub struct UserDb; impl UserDb{pub fn parse(_:&[u8],_:&[u8])->Self{Self}}
pub struct User{pub uid:u32,pub gid:u32}
pub fn user(_:&UserDb,image:&str,sc:Option<&v1::LinuxContainerSecurityContext>)->Result<User,Error>{
 let uid=sc.and_then(|s|s.run_as_user).map(|u|u.value).or(image.parse().ok()).unwrap_or(0); let gid=sc.and_then(|s|s.run_as_group).map(|u|u.value).unwrap_or(0);
 Ok(User{uid:u32::try_from(uid).unwrap_or(0),gid:u32::try_from(gid).unwrap_or(0)})}
pub struct ContainerInput<'a> { pub id:&'a ContainerId, pub sandbox_id:&'a SandboxId, pub config:&'a v1::ContainerConfig, pub sandbox:&'a v1::PodSandboxConfig, pub sandbox_pid:u32, pub netns:Option<&'a Path>, pub target_pid:Option<u32>, pub image:&'a ImageConfig, pub image_name:&'a str, pub user:&'a User, pub files:&'a SandboxFiles, pub mounts:&'a [crate::container::mounts::HostMount], pub devices:&'a [crate::container::devices::HostDevice], pub volumes:&'a [(String,PathBuf)], pub host:&'a Host, pub handler:&'a Handler, pub cgroup_path:String }
pub fn container(i:&ContainerInput<'_>)->Result<Spec,Error>{
 let c=i.config; let sc=c.linux.as_ref().and_then(|l|l.security_context.as_ref());
 let mut args=if c.command.is_empty(){i.image.entry.clone()}else{c.command.clone()};
 if !c.args.is_empty(){args.extend(c.args.clone());}else if c.command.is_empty(){args.extend(i.image.cmd.clone());}
 let mut env=i.image.env.clone(); if !env.iter().any(|e|e.starts_with("PATH=")){env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());}
 for kv in &c.envs{env.push(format!("{}={}",kv.key,String::from_utf8_lossy(&kv.value)));}
 let cwd=[&c.working_dir,&i.image.cwd].into_iter().find(|s|!s.is_empty()).cloned().unwrap_or("/".into());
 let privileged=sc.is_some_and(|s|s.privileged);
 let oom=c.linux.as_ref().and_then(|l|l.resources.as_ref()).map_or(0,|r|i32::try_from(r.oom_score_adj).unwrap_or(0)).max(i.host.oom_score_floor);
 let mut v=base(&args,env,&cwd,i.user.uid,i.user.gid,&[],privileged,oom);
 v["process"]["terminal"]=json!(c.tty);
 v["linux"]["namespaces"]=ns(sc.and_then(|s|s.namespace_options.as_ref()),i.netns,Some(i.sandbox_pid),i.target_pid);
 v["linux"]["cgroupsPath"]=json!(i.cgroup_path);
 v["annotations"]=json!({"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":i.sandbox_id.as_str()});
 if let Some(m)=v["mounts"].as_array_mut(){
  for (d,s) in [("/dev/shm",&i.files.shm),("/etc/hosts",&i.files.hosts),("/etc/hostname",&i.files.hostname),("/etc/resolv.conf",&i.files.resolv_conf)]{ m.push(json!({"destination":d,"type":"bind","source":s,"options":["rbind","rw"]})); }
  for h in i.mounts { m.push(json!({"destination":h.mount.container_path,"type":"bind","source":h.source,"options":["rbind",if h.mount.readonly{"ro"}else{"rw"}]})); }
  for (d,s) in i.volumes { m.push(json!({"destination":d,"type":"bind","source":s,"options":["rbind","rw"]})); }
 }
 if let Some(r)=c.linux.as_ref().and_then(|l|l.resources.as_ref()){ if r.memory_limit_in_bytes>0{v["linux"]["resources"]["memory"]=json!({"limit":r.memory_limit_in_bytes});} if r.cpu_quota!=0{v["linux"]["resources"]["cpu"]=json!({"quota":r.cpu_quota,"period":r.cpu_period});} }
 finish(v)
}
pub fn exec_process(s:&Spec,cmd:&[String],tty:bool)->Process{let mut p=s.process().clone().unwrap_or_default(); p.set_args(Some(cmd.to_vec())); p.set_terminal(Some(tty)); p}
pub fn reported_resources(_:&Spec)->v1::ContainerResources{v1::ContainerResources::default()}
pub fn reported_user(_:&Spec)->v1::ContainerUser{v1::ContainerUser::default()}
pub fn update_resources(_:&mut Spec,_:&v1::LinuxContainerResources,_:&Host)->Result<(),Error>{Err(Error("stopgap".into()))}
