import subprocess, pytest, s3fs, ray, ray.data
@pytest.mark.s3
def test_ceph(ceph): 
    fs=s3fs.S3FileSystem(); fs.pipe(ceph+"/a", b"x"); assert fs.ls(ceph)
def test_moto(s3):
    fs=s3fs.S3FileSystem(); fs.pipe(s3+"/a", b"x"); assert fs.ls(s3)
def test_ray(ray_local, s3):
    s3fs.S3FileSystem().pipe(s3+"/a", b"x")
    @ray.remote
    def f(u):
        import s3fs
        return s3fs.S3FileSystem().cat(u)
    assert ray.get(f.remote(s3+"/a"))==b"x"
    assert ray.data.range(100, override_num_blocks=4).map_batches(lambda b: b).count()==100
@pytest.mark.s3
def test_ceph2(ceph): 
    fs=s3fs.S3FileSystem(); fs.pipe(ceph+"/a", b"x"); assert fs.ls(ceph)
def test_ff(ffprobe): subprocess.run([*ffprobe, "-version"], check=True)
