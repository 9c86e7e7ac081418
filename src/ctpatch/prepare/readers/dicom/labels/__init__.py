"""Labels in DICOM objects of their own: segmentations and structure sets."""
