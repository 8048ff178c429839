"""Small DICOM and NIfTI files made on the spot."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def write_dicom():
    """write_dicom(path, pixels, **attributes): an uncompressed file; grey (H, W), frames (N, H, W) or RGB (H, W, 3)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    def write(path, pixels=None, **attributes):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data_set = Dataset()
        data_set.file_meta = meta
        data_set.SOPClassUID, data_set.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        if pixels is not None:
            _put_pixels(data_set, np.asarray(pixels))
        for keyword, value in attributes.items():
            setattr(data_set, keyword, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        data_set.save_as(path, enforce_file_format=True)
        return path

    return write


def _put_pixels(data_set, pixels):
    is_colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    data_set.Rows, data_set.Columns = pixels.shape[:2] if is_colour else pixels.shape[-2:]
    data_set.SamplesPerPixel = 3 if is_colour else 1
    data_set.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        data_set.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        data_set.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    data_set.BitsAllocated = data_set.BitsStored = bits
    data_set.HighBit = bits - 1
    data_set.PixelRepresentation = int(pixels.dtype.kind == "i")
    data_set.PixelData = pixels.tobytes()
    data_set["PixelData"].VR = "OW" if bits > 8 else "OB"


@pytest.fixture
def write_nifti():
    """write_nifti(path, voxels, codes="RAS", zooms=(1, 1, 1))."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff

    def write(path, voxels, codes="RAS", zooms=(1, 1, 1)):
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.asarray(voxels)
        affine = inv_ornt_aff(axcodes2ornt(tuple(codes)), voxels.shape[:3]) @ np.diag([*zooms, 1.0])
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
        return path

    return write


@pytest.fixture
def write_volume(write_dicom):
    """write_volume(path, voxels, affine, **attributes): (X, Y, Z) with its affine to RAS, as the suffix says; without a
    suffix as a folder of DICOM files, whose names are not in the order of their positions."""

    def write(path, voxels, affine, **attributes):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith((".nii", ".nii.gz")):
            import nibabel

            nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
        elif path.suffix:
            _write_itk(path, voxels, affine)
        else:
            _write_series(write_dicom, path, voxels, affine, attributes)
        return path

    return write


def _write_itk(path, voxels, affine):
    import SimpleITK

    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))


def _write_series(write_dicom, folder, voxels, affine, attributes):
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    usual = {
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "PixelSpacing": [float(spacing[1]), float(spacing[0])],
        "SliceThickness": float(spacing[2]),
        "ImageOrientationPatient": [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])],
    }
    for k in range(voxels.shape[2]):
        position = (lps @ [0, 0, k, 1])[:3]
        own = {"ImagePositionPatient": position.tolist(), "InstanceNumber": k + 1}
        name = f"{(7 * k) % voxels.shape[2]}-{k}.dcm"
        write_dicom(folder / name, voxels[:, :, k].T.copy(), **{**usual, **own, **attributes})
