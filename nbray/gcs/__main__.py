"""``python -m nbray.gcs``: the process of the GCS."""

from nbray.gcs.server import main

if __name__ == "__main__":
    main()
