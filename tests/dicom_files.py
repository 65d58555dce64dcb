"""DICOM files for tests: written by pydicom, with a patient planted in their headers."""

import io

import numpy as np

NAME, PATIENT_ID, BIRTH, STUDY_DATE = "Zwiebelmann^Ottokar", "MRN-4711-0815", "19630407", "20240229"
ACCESSION, PHYSICIAN = "ACC-998877", "Quacksalber^Erna"
UID_ROOT = "1.2.826.0.1.3680043.8.498.4711"
PLANTED = (
    *(NAME, "Zwiebelmann", "Ottokar", PATIENT_ID, BIRTH, STUDY_DATE, ACCESSION),
    *(PHYSICIAN, "Quacksalber", UID_ROOT, "Mustermann"),
)


def header(n=0):
    """Return attributes that name a patient, the `n`-th of them."""
    from pydicom import Dataset

    private = Dataset()
    private.PatientName = "Mustermann^Max"
    return {
        "PatientName": NAME,
        "PatientID": f"{PATIENT_ID}-{n}",
        "PatientBirthDate": BIRTH,
        "StudyDate": STUDY_DATE,
        "AccessionNumber": ACCESSION,
        "ReferringPhysicianName": PHYSICIAN,
        "StudyInstanceUID": f"{UID_ROOT}.1.{n}",
        "RequestAttributesSequence": [private],
    }


def dataset_of(pixels, *, photometric=None, stored=None, frames=None, **attributes):
    """Return a data set around `pixels`: (rows, columns[, 3]) or with frames=n in front."""
    from pydicom import Dataset

    pixels = np.asarray(pixels)
    shape = pixels.shape[1:] if frames else pixels.shape
    colour = len(shape) == 3
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture
    dataset.SOPInstanceUID = f"{UID_ROOT}.99"
    dataset.Modality = "OT"
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if colour:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = frames
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def content_of(dataset, syntax=None, preamble=True):
    """Return the bytes of a file that holds a data set."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    syntax = syntax or ExplicitVRLittleEndian
    dataset["PixelData"].VR = "OB" if syntax.is_encapsulated or dataset.BitsAllocated <= 8 else "OW"
    buffer = io.BytesIO()
    if not preamble:
        dataset.save_as(
            buffer,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            enforce_file_format=False,
        )
        return buffer.getvalue()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels, *, syntax=None, preamble=True, patient=0, **attributes):
    """Return the bytes of a DICOM file; `patient=None` leaves out who it is."""
    who = {} if patient is None else header(patient)
    return content_of(dataset_of(pixels, **{**who, **attributes}), syntax, preamble)


def lut_item(first, bits, entries):
    """Return an item of a Modality or VOI LUT Sequence."""
    from pydicom import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65_536, first, bits])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item
