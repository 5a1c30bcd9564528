"""The methods beside eCLIP that the paper compares (Table 1), one file each over the same inputs."""
