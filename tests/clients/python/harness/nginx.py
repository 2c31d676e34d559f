"""A real nginx as a private process."""

from pathlib import Path

from .process import Process


def started(program: str, folder: Path, servers: str, plain: int) -> Process:
    """An nginx with these server blocks; on the port `plain` it says that it is up."""
    config = folder / "nginx.conf"
    config.write_text(f"""
        daemon off; pid {folder}/nginx.pid; error_log stderr;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/client; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{plain};
                return 204;
            }}
            {servers}
        }}
    """)
    process = Process("nginx", [program, "-e", "stderr", "-c", str(config)], {}, folder)
    process.start(f"http://127.0.0.1:{plain}/", 204)
    return process
